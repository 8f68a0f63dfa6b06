// What the pages need beyond htmx: the confirmation dialog, and saying whether what is shown is live.
"use strict";

(() => {
  const RETRY_MS = 2000;
  const live = document.getElementById("live");
  const state = document.getElementById("live-state");
  const dialog = document.getElementById("dialog");
  const dialogBody = document.getElementById("dialog-body");

  function say(word) {
    if (state.dataset.live !== word) {
      state.dataset.live = word;
      state.textContent = word;
    }
  }

  function signIn() {
    location.assign("/sign-in?ended=1&next=" + encodeURIComponent(location.pathname + location.search));
  }

  document.addEventListener("htmx:after:swap", (event) => {
    if (event.detail.ctx?.target === dialogBody && !dialog.open) dialog.showModal();
  });
  dialog.addEventListener("close", () => dialogBody.replaceChildren());

  // "Live" is claimed once the first message after a connection has been put on the page, not before.
  live.addEventListener("htmx:sse:after:message", () => say("live"));
  live.addEventListener("htmx:sse:close", () => say("reconnecting"));
  live.addEventListener("htmx:sse:before:connection", (event) => {
    if (event.detail.connection?.attempt > 0) say("reconnecting");
  });
  live.addEventListener("htmx:sse:error", (event) => {
    say("reconnecting");
    if (event.detail.status === 401) signIn();
    if (event.detail.status === 404) location.reload();
  });
  live.addEventListener("wavegate:signed-out", signIn);
  live.addEventListener("wavegate:gone", () => location.reload());

  // The extension reconnects what was once connected; the first attempt is ours to repeat.
  function retry(event) {
    if (event.target !== live) return;
    if (event.detail.ctx?.response?.status === 401) return signIn();
    say("reconnecting");
    setTimeout(() => htmx.trigger(live, "wavegate:reconnect"), RETRY_MS);
  }
  document.addEventListener("htmx:error", retry);
  document.addEventListener("htmx:response:error", (event) => {
    if (event.target !== live && event.detail.ctx?.response?.status === 401) return signIn();
    retry(event);
  });
})();

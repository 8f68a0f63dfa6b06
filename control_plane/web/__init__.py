"""The pages people look at: server-rendered HTML, kept right by one stream of changes a page.

``router.web_router`` is the door. A *page* (``page.Page``) is a loader of plain values and a template; its *regions*
are the parts that are rendered again when something changed. Everything shown is read through ``db.queries`` and
everything done goes through ``services``: the pages can do nothing the API cannot. No request leaves the site, and no
page needs an inline script or style (the Content-Security-Policy forbids them).
"""

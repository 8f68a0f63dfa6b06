"""The repository's side: what may become current, and the online keys that say it is."""

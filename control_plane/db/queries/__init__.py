"""The reading side: each module answers questions about one noun with frozen dataclasses, never with table rows.

Lists are keyset pages: ``after`` is the key of the last item seen, so that page 1,000 costs what page 1 does. Nothing
here writes, and nothing counts a table to show a page of it.
"""

"""The database: ``tables`` (what is stored), ``engine`` (SQLite or PostgreSQL), ``queries`` (return core values)."""

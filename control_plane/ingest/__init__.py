"""From the broker into the database: ``consumer`` (MQTT), ``writer`` (one transaction after another)."""

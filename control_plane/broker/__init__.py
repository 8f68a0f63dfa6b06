"""The private MQTT broker: ``configuration`` writes what mosquitto reads, ``supervisor`` keeps it running."""

"""How the demo's digit models are made and measured; started by `scripts/make_demo_models.py`."""

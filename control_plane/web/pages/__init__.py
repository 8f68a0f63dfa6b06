"""What each page loads, one noun a module."""

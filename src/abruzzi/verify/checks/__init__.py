"""The checks of verify, one file a subject."""

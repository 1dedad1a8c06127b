"""The web page at /, its static files and the turn behind it."""

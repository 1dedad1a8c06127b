"""Questions about clocks, calendars and units."""

"""Questions about a small table, answered with SQL and the calculator."""

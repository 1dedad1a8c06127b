"""Training: MuonClip, schedules and the step loop. Needs torch (`pip install abruzzi[train]`)."""

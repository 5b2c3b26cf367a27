raise SystemExit("goodbye\x1b[2J\nsecond line")

"""Schedules of crashes, faults and interleavings over the real load, ledger and pacing code, each made by one seed."""

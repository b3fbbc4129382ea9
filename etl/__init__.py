"""profile-etl: daily exports in, customer profiles out, every row accounted for."""

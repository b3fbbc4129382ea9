"""Transform: from valid rows to profiles. Everything but `step` is pure: frame in, frame out."""

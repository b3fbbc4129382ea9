"""A stand-in for the vendors on loopback: it takes what they take, refuses what they refuse, and shows what arrived.

Written from the vendors' own pages. It imports nothing else of this project and nothing of this project's destinations
imports it: the two meet over HTTP only, so that one misreading cannot pass on both sides.
"""

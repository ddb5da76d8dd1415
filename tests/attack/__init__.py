"""Attacks: tables of attempts that must not work, each tried on a running service."""

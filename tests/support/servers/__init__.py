"""Servers on loopback: real ones, stand-ins, and those that misbehave."""

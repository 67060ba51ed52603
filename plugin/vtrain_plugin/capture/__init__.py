"""The capture core: session, recorder, clock, ranges and files. Knows no training framework."""

"""Microbenchmarks: any rank of any world on one device, operators, collectives."""

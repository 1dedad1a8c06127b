"""Fakes that more than one room's tests use: things that behave, instead of mocks."""

"""Conformance tests of an endpoint: does it serve a reasoning, tool-calling model correctly?"""

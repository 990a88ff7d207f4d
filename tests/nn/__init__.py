"""Tests of fastrnn.nn."""

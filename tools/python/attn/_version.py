"""The version: the one in the project's CMakeLists.txt (a test compares them)."""

__version__ = "0.1.0"

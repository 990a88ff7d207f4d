"""Hostile arguments for every public function: a right result, or an error that names the argument."""

"""The process and its surroundings: signals, paths, output. Imports neither torch nor Lightning."""

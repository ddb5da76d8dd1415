"""The clients that people have, unmodified, against a running service: a folder of npm packages for each dialect, and
programs that drive them.
"""

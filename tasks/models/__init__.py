"""Models: import a base model into the store, load and save policies, check and describe their
files.
"""

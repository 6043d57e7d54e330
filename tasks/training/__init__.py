"""Training of teachers, students, critics and on-policy policies.

One process trains alone, or several train a model sharded with FSDP2.
"""

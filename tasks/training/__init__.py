"""Training: teachers, students, critics and on-policy policies, in one process or sharded over
several with FSDP2.
"""

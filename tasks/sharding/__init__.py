"""Several workers train one model: FSDP2 shards of it (`policy`), what each worker does (`worker`), the workers as Ray actors (`gang`).

Nothing here is imported when a stage's own process trains.
"""

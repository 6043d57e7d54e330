"""Everything that touches files, processes, networks or models; one package per purpose."""

"""The interfaces between samplers, engine, pipelines and verifiers: queries, answers, batches, particles."""

"""A driver: answers one folder into another and resumes. `job.py ADDRESS BUNDLE TASK IN OUT CHECKPOINT`."""

import sys

import ray

import untorch.ray


def main(bundle: str, task: str, source: str, target: str, checkpoint: str) -> None:
    dataset = ray.data.read_parquet(source, override_num_blocks=24)
    answered = untorch.ray.predict(dataset, bundle, "text", task=task, precision="fp32", id="id", checkpoint=checkpoint)
    answered.write_parquet(target)


if __name__ == "__main__":
    address, *arguments = sys.argv[1:]
    ray.init(address=address, log_to_driver=False, logging_level="error")
    main(*arguments)

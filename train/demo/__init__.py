"""The main job on embedded data: clips in; trained models, their scores and a report out, below `outputs/demo`."""

"""What a run takes before anyone starts it: hours, disk, memory and money, by formulas over measured rates.

In: `rates.yaml`, the sizes of the paper's run and how fast each stage was where it was measured, both changed from the
command line. Out: a printed plan, in which each number stands next to its formula. `stages` has the formulas, `command`
is `polyvid plan`. A rate that nobody has measured stays open, and so does all that depends on it: nothing is guessed.
"""

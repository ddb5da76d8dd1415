"""The ladder: how far the product is from the floor of each thing it does, in ratios inside one run.

Each row is a file with `measure`. CPU is that of all processes of a row, in user and system time; floors and peers do
the same work beside the product, taking turns, so that what else the machine does disturbs all alike.
"""

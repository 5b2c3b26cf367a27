"""Many trajectories at once: a matrix of cells, trials of each, attempts at each trial.

cells    what a batch is made of, and the ids of its trajectories
stored   what a storage already has of it: there is no other record of a batch
results  how trials and the whole batch ended, and what the exit status follows from
progress counts while it runs, for whoever watches
limits   open files, where many trajectories need more than the system allows by itself
money    the total cost budget
running  K at once, in one task group
"""

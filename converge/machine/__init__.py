"""Machines: things with a state, which events move, one atomic move at a time.

Usable alone, in any program with a database. An instance is a row; the moves of all that was
ever fired at it are its history. The action of a move is called when the move is committed,
and if the process dies, by whoever sweeps; what it has done is in its journal.
"""

from converge.machine.action import Action
from converge.machine.definition import Definition, State, Transition
from converge.machine.instances import Instance, Instances, list_machines
from converge.machine.machine import Machine
from converge.machine.move import ActionFailed, Move

__all__ = [
    "Action",
    "ActionFailed",
    "Definition",
    "Instance",
    "Instances",
    "Machine",
    "Move",
    "State",
    "Transition",
    "list_machines",
]

"""Machines: things with a state, which events change, one atomic move at a time.

They can be used alone, in any program with a database. An instance is a row; its history is all its
moves. The action of a move is called after the move is committed; if the process dies, another
process that sweeps calls it. What the action has done is in its journal.
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

"""Wake-ups: hints to look into the database, which is the truth. A lost hint costs time and nothing
else; so does one that is doubled, late, out of order, or forged.

:mod:`~converge.bus.hint` is what a hint holds, :mod:`~converge.bus.pace` when one is sent and acted
upon; both are pure. :mod:`~converge.bus.memory` tells those in this process, and
:mod:`~converge.bus.shared` also those in others, through a carrier.
"""

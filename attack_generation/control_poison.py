"""Write a control in place of poison: the same epsilon, no optimisation.

A plan lists the controls of its table under 'rows', beside the optimised poison.

    python attack_generation/control_poison.py --kind constant --data-dir data/MNIST
"""

from attack_generation.controls import ControlConfig as Config
from attack_generation.controls import write_control_poison
from runtime.command_line import run_script

if __name__ == "__main__":
    run_script(write_control_poison, Config, __doc__)

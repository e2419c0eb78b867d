"""What a configuration amounts to before it is run: shapes, gradients, cost, schedules."""

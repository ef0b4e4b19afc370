//! The command line: one file per command.

#[allow(dead_code, reason = "the mount command, which comes with the engine, calls it")]
mod background;
#[allow(dead_code, reason = "called by the command line's dispatch")]
mod unmount;

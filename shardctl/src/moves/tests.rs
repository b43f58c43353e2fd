//! Whole moves between two real servers, with applications writing past any gateway: what the guards, the sweeper and the fence
//! must withstand by themselves.

mod harness;
mod settling;
mod whole_moves;

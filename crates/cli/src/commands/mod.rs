//! One file per command.

pub mod audit;
pub mod broker;
pub mod consume;
pub mod demo;
pub mod dlq;
pub mod init;
pub mod run;
pub mod send;
pub mod status;
pub mod topic;

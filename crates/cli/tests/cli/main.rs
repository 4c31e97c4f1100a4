//! Drives the real `homing` binary the way people and scripts do.
#![allow(clippy::unwrap_used)] // everything here is a test

mod audit;
mod broker;
mod consume;
mod demo;
mod embedded;
mod init;
mod pipeline;
mod send;
mod settings;
mod support;

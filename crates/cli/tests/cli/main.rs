//! Drives the real `homing` binary the way people and scripts do.
//!
//! What carries records over a broker is in `delivery`, on any cluster; here, names that begin
//! with `embedded_` are about the embedded broker itself.
#![allow(clippy::unwrap_used)] // everything here is a test

mod audit;
mod broker;
mod demo;
mod embedded;
mod init;
mod send;
mod settings;
mod support;

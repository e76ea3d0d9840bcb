//! Who notices that a thread of the gateway has ended by itself.

use crossbeam_channel::Sender;

/// Says that a thread has ended, however it did. It lives in the thread.
pub struct Alive(pub Sender<&'static str>, pub &'static str);

impl Drop for Alive {
    fn drop(&mut self) {
        // One message is enough, whoever it is from.
        let _ = self.0.try_send(self.1);
    }
}

pub struct Secret(pub String);
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
impl Clone for Secret {
    fn clone(&self) -> Self {
        Secret(self.0.clone())
    }
}

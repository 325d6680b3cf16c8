//! The interceptors of the program that embeds the broker, by the names that documents use.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::files::CompileError;
use weir_broker::{Interceptor, Interceptors, RegisteredInterceptor};
use weir_declare::config::Name;

/// The registered interceptors.
#[derive(Clone, Default)]
pub(crate) struct InterceptorRegistry(BTreeMap<Arc<str>, RegisteredInterceptor>);

impl InterceptorRegistry {
    /// Registers one; an earlier one of the same name is replaced.
    pub(crate) fn register(&mut self, name: Arc<str>, interceptor: impl Interceptor) {
        self.0.insert(name, RegisteredInterceptor::new(interceptor));
    }

    /// Those that an endpoint names, in its order; `None`: it names none.
    ///
    /// # Errors
    /// One is not registered.
    pub(super) fn resolve(&self, names: &[Name]) -> Result<Option<Interceptors>, CompileError> {
        let found = names.iter().map(|name| self.0.get(name.as_str()).cloned().ok_or_else(|| self.missing(name)));
        Ok(Interceptors::new(&found.collect::<Result<Vec<_>, _>>()?))
    }

    fn missing(&self, name: &Name) -> CompileError {
        let registered: Vec<&str> = self.0.keys().map(|name| &**name).collect();
        let registered = if registered.is_empty() {
            "this program registers none (the binary weir never does; a program that embeds the broker calls \
             ServerBuilder::interceptor)"
                .to_owned()
        } else {
            format!("registered: {}", registered.join(", "))
        };
        CompileError::Unregistered(format!("no interceptor is registered as `{name}`; {registered}"))
    }
}

impl std::fmt::Debug for InterceptorRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

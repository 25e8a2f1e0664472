"""The viewer: a page in the browser over a store. It keeps no state but the store and the URL."""

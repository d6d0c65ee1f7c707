/** The entry of the dashboard (`/`): shows the login form, or the tabs to a user who is logged in. */

import {
  MutationCache,
  QueryClient,
  QueryClientProvider,
  useMutation,
  useQuery,
  useQueryClient,
} from '@tanstack/react-query';
import { StrictMode, useCallback, useEffect } from 'react';
import { createRoot } from 'react-dom/client';
import { ApiError, api, loginKey, type Role, unwrap } from '#shared/api.ts';
import { clearFleets } from '#shared/fleet-cache.ts';
import { DashboardTabs } from './dashboard-tabs.tsx';
import { LoginForm } from './login-form.tsx';

function Dashboard() {
  const cache = useQueryClient();
  const login = useQuery({
    queryKey: loginKey,
    queryFn: async () => {
      try {
        return (await unwrap(api.GET('/login'))).role ?? null;
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) return null;
        throw error;
      }
    },
    // A gateway that does not answer for a moment does not end the login.
    retry: true,
    retryDelay: 2000,
  });
  const setRole = useCallback((role: Role | null) => cache.setQueryData(loginKey, role), [cache]);
  const logOut = useMutation({ mutationFn: () => unwrap(api.POST('/logout')), onSuccess: () => setRole(null) });
  const checkLogin = useCallback(() => void cache.invalidateQueries({ queryKey: loginKey }), [cache]);

  // Clears the cache, because the next user may have fewer permissions.
  useEffect(() => {
    if (login.data === null) clearFleets(cache);
  }, [login.data, cache]);

  if (login.data === undefined) {
    return (
      <main className="login">
        <p role="status">{login.failureReason === null ? 'Loading…' : login.failureReason.message}</p>
      </main>
    );
  }
  if (login.data === null) {
    const logIn = (role: Role) => {
      logOut.reset();
      setRole(role);
    };
    return <LoginForm onLogin={logIn} />;
  }
  return (
    <DashboardTabs
      role={login.data}
      onStreamRejected={checkLogin}
      onLogOut={() => logOut.mutate()}
      logOutError={logOut.error?.message ?? null}
    />
  );
}

const cache: QueryClient = new QueryClient({
  defaultOptions: {
    // A browser that is offline still reaches a gateway on its own machine.
    queries: { refetchOnWindowFocus: false, networkMode: 'always' },
    mutations: { networkMode: 'always' },
  },
  mutationCache: new MutationCache({
    onError: (error) => {
      // The login may have expired, or its role may have changed.
      const isUnauthorized = error instanceof ApiError && (error.status === 401 || error.status === 403);
      if (isUnauthorized) void cache.invalidateQueries({ queryKey: loginKey });
    },
  }),
});

// The element with this id also keeps React Aria from adding a style element (index.html).
const root = document.getElementById('react-aria-pressable-style');
if (root === null) throw new Error('index.html has no element with the id react-aria-pressable-style');
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={cache}>
      <Dashboard />
    </QueryClientProvider>
  </StrictMode>,
);

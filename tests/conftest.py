# pytest puts the folder of this file on the path: any test may `import launching`.
